"""The real corpora that are known by name: where they are, their terms, what to cite. Nothing heavy is imported."""

from __future__ import annotations

from pvdr_bench.suites.corpora import CorpusSource, Download

_OPEN_X = ("Open X-Embodiment Collaboration: Open X-Embodiment: Robotic Learning Datasets and RT-X Models. ICRA 2024, "
           "arXiv 2310.08864")

BAIR = CorpusSource(
    "bair", "a Sawyer arm that pushes objects about at random, filmed at 64 x 64 pixels", "files",
    "pvdr_bench.videos.readers.bair:BairReader", 43520, title="BAIR",
    origin="BAIR robot pushing, small (softmotion30_44k); camera aux1, as in video prediction",
    license="none stated by its authors; ask them before you publish frames",
    citation="Ebert, Finn, Lee, Levine: Self-Supervised Visual Planning with Temporal Skip Connections. CoRL 2017, "
             "arXiv 1710.05268",
    downloads=(Download("http://rail.eecs.berkeley.edu/datasets/bair_robot_pushing_dataset_v0.tar", 32_274_964_480,
                        "c6f8d164ab2be07174ef597e3e070d7466f3142caddc467b6af119b9458cd9cd"),),
    camera="aux1", train_frames=43_264 * 30)

JACO_PLAY = CorpusSource(
    "jaco-play", "a teleoperated Jaco arm that picks and places things in a toy kitchen", "files",
    "pvdr_bench.videos.readers.rlds:RLDSReader", 1085, title="USC Jaco Play",
    origin="Open X-Embodiment jaco_play 0.1.0 (RLDS), or LeRobot's copy of it", license="CC BY 4.0",
    citation="Dass, Yapeter, Zhang, Zhang, Pertsch, Nikolaidis, Lim: CLVR Jaco Play Dataset, 2023; " + _OPEN_X,
    downloads=(Download("gs://gresearch/robotics/jaco_play/0.1.0", 9_920_000_000),), camera="image", fps=10.0)

CABLE_ROUTING = CorpusSource(
    "cable-routing", "a Franka arm that routes a cable through clips", "files",
    "pvdr_bench.videos.readers.rlds:RLDSReader", 1647, title="Berkeley Cable Routing",
    origin="Open X-Embodiment berkeley_cable_routing 0.1.0 (RLDS), or LeRobot's copy of it", license="CC BY 4.0",
    citation="Luo, Xu, Geng, Feng, Fang, Tan, Schaal, Levine: Multi-Stage Cable Routing through Hierarchical Imitation "
             "Learning. arXiv 2307.08927; " + _OPEN_X,
    downloads=(Download("gs://gresearch/robotics/berkeley_cable_routing/0.1.0", 5_010_000_000),), camera="image")

REAL = (BAIR, JACO_PLAY, CABLE_ROUTING)

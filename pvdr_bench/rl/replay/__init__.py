"""Replay of whole episodes on disk, one stream per environment; the loop fills it, a learner samples it.

``episodes.py``  EpisodeReplay: what a learner and the loop use
``drawing.py``   positions, and which ones may be drawn: across episodes, or inside one
``priorities.py``  what entries weigh, and draws in proportion to that
``stream.py``    the entries of one environment, and where its episodes begin and end
``columns.py``   what a learner keeps beside each entry, and may write anew
``records.py``   files of records; ``scratch.py``: on which disk they are

Nothing is imported here: who submits a job asks for the scratch folder's variable and needs no torch.
"""

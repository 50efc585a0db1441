"""Decimation keeps a surface closed and in place, and leaves the physics' model alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pvdr_bench.suites.decimate import decimate, decimate_model, weld


def sphere(rings: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A closed unit sphere whose triangles share no vertices, as in an STL file."""
    polar, around = np.linspace(0, np.pi, rings), np.linspace(0, 2 * np.pi, 2 * rings + 1)
    points = np.stack([np.outer(np.sin(polar), np.cos(around)), np.outer(np.sin(polar), np.sin(around)),
                       np.outer(np.cos(polar), np.ones_like(around))], -1)
    triangles = []
    for i in range(rings - 1):
        for j in range(2 * rings):
            a, b, c, d = points[i, j], points[i + 1, j], points[i + 1, j + 1], points[i, j + 1]
            if i < rings - 2:
                triangles.append((a, b, c))
            if i > 0:
                triangles.append((a, c, d))
    vertices = np.array(triangles).reshape(-1, 3)
    return vertices, np.arange(len(vertices)).reshape(-1, 3)


def edges(faces: np.ndarray) -> Counter[tuple[int, int]]:
    return Counter((int(f[i]), int(f[(i + 1) % 3])) for f in faces for i in range(3))


def test_welding_closes_a_triangle_soup() -> None:
    vertices, faces = sphere()
    welded, index = weld(vertices, faces)
    found = edges(index)
    assert len(welded) < len(vertices) / 5
    assert all(found[b, a] == count for (a, b), count in found.items()), "each edge has its other side"
    soup = edges(faces)
    assert not any(soup[b, a] for a, b in soup), "the soup before had none"


@pytest.mark.parametrize("cell", [0.1, 0.2])
def test_a_closed_surface_stays_closed_and_in_place(cell: float) -> None:
    vertices, faces = weld(*sphere())
    small, index, normals, normal_index = decimate(vertices, faces, cell)
    found = edges(index)
    assert len(index) < len(faces) / 2
    assert all(found[b, a] == count for (a, b), count in found.items()), "no tears"
    assert np.abs(np.linalg.norm(small, axis=1) - 1).max() < cell**2, "vertices are means inside their cells"
    outward = (normals[normal_index] * small[index]).sum(-1)
    assert outward.min() > 0.9, "smooth normals of a sphere point along its radius"
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)


def test_both_sides_of_a_thin_sheet_survive() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1e-3], [1, 0, 1e-3], [0, 1, 1e-3]], float)
    faces = np.array([[0, 2, 1], [3, 4, 5]])
    _, index, _, _ = decimate(vertices, faces, 0.1)
    assert len(index) == 2, "the sheet collapsed to one plane, seen from above and from below"


def test_the_physics_model_is_not_changed() -> None:
    import mujoco

    vertices, faces = weld(*sphere(20))
    text = " ".join(f"{x:.6f}" for x in vertices.ravel()), " ".join(str(i) for i in faces.ravel())
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><asset><mesh name="ball" vertex="{text[0]}" face="{text[1]}"/></asset>'
        '<worldbody><geom type="mesh" mesh="ball"/></worldbody></mujoco>')
    before = model.mesh_vert.copy(), model.mesh_face.copy(), model.mesh_facenum.copy()
    lean = decimate_model(model, 0.2)
    assert 0 < lean.mesh_facenum[0] < model.mesh_facenum[0] / 2
    for old, now in zip(before, (model.mesh_vert, model.mesh_face, model.mesh_facenum), strict=True):
        np.testing.assert_array_equal(old, now)

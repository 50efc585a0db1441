"""Fewer triangles for the same picture: visual meshes of a compiled MuJoCo model, decimated by vertex clustering.

Only a copy made for drawing is changed: the physics keeps its own model. Vertices are welded first (STL files repeat
them along creases), so neighbouring triangles move together and a mesh never tears.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
Faces = NDArray[np.int64]

DEFAULT_CELL = 0.012  # metres: about a pixel and a half of a 128-pixel picture from 1.35 m
_MIN_FACES = 100  # smaller meshes are left as they are
_CREASE_COS = 0.5  # corners share a smooth normal with faces turned by less than 60 degrees


def decimate_model(model: Any, cell: float = DEFAULT_CELL) -> Any:
    """A copy of a compiled ``MjModel`` for drawing only, its large meshes decimated in place.

    All counts but ``mesh_facenum`` stay, so scenes made from the original model can be drawn with a context made from
    this one. Textured meshes (with texture coordinates) are kept.

    Args:
        model: ``mujoco.MjModel``; it is not changed.
        cell: edge in metres of the clusters that become one vertex.
    """
    lean = copy.copy(model)
    for mesh in range(model.nmesh):
        if model.mesh_facenum[mesh] >= _MIN_FACES and model.mesh_texcoordadr[mesh] < 0:
            _decimate_mesh(lean, mesh, cell)
    return lean


def _decimate_mesh(model: Any, mesh: int, cell: float) -> None:
    """Replace a mesh's triangles in ``model``; a mesh whose new form does not fit into its old place is left alone."""
    v0, nv = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    f0, nf = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    n0, nn = model.mesh_normaladr[mesh], model.mesh_normalnum[mesh]
    vertices, faces = weld(model.mesh_vert[v0 : v0 + nv].astype(np.float64), model.mesh_face[f0 : f0 + nf])
    new_vertices, new_faces, normals, normal_index = decimate(vertices, faces, cell)
    if len(new_faces) >= nf or len(new_vertices) > nv or len(normals) > nn or not len(new_faces):
        return
    model.mesh_vert[v0 : v0 + len(new_vertices)] = new_vertices
    model.mesh_normal[n0 : n0 + len(normals)] = normals
    model.mesh_face[f0 : f0 + len(new_faces)] = new_faces
    model.mesh_facenormal[f0 : f0 + len(new_faces)] = normal_index
    model.mesh_facenum[mesh] = len(new_faces)


def weld(vertices: Vectors, faces: NDArray[np.integer], tolerance: float = 1e-6) -> tuple[Vectors, Faces]:
    """Merge vertices [V, 3] that lie at the same place (within ``tolerance`` metres); faces [F, 3] follow."""
    keys = np.round(vertices / tolerance).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    welded = inverse.reshape(-1)[faces.astype(np.int64)]
    return vertices[first], _drop_degenerate(welded)


def decimate(vertices: Vectors, faces: Faces, cell: float) -> tuple[Vectors, Faces, Vectors, Faces]:
    """Cluster the vertices of a welded mesh on a grid.

    Returns:
        vertices [V', 3], faces [F', 3], unit normals [M, 3] and, for each face, the normals of its corners [F', 3].
    """
    cluster, count = _clusters(vertices, cell)
    area_normals = _area_normals(vertices, faces)
    weight = np.zeros(len(vertices))
    np.add.at(weight, faces, np.linalg.norm(area_normals, axis=1, keepdims=True))
    weight += 1e-12
    total = np.bincount(cluster, weight, count)
    centre = np.stack([np.bincount(cluster, weight * vertices[:, i], count) for i in range(3)], 1) / total[:, None]
    new_faces = _drop_duplicates(_drop_degenerate(cluster[faces]))
    used, flat = np.unique(new_faces, return_inverse=True)
    index = flat.reshape(-1, 3)
    corner_normals = _corner_normals(centre, new_faces, cluster[faces], area_normals, count)
    rounded, normal_index = np.unique(np.round(corner_normals, 2), axis=0, return_inverse=True)
    lengths = np.linalg.norm(rounded, axis=1, keepdims=True)
    return centre[used], index, rounded / np.maximum(lengths, 1e-9), normal_index.reshape(-1, 3)


def _clusters(vertices: Vectors, cell: float) -> tuple[Faces, int]:
    cells = np.floor(vertices / cell).astype(np.int64)
    _, cluster = np.unique(cells, axis=0, return_inverse=True)
    cluster = cluster.reshape(-1)
    return cluster, int(cluster.max()) + 1


def _area_normals(vertices: Vectors, faces: Faces) -> Vectors:
    """Normal of each face times twice its area [F, 3]."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


def _drop_degenerate(faces: Faces) -> Faces:
    a, b, c = faces.T
    kept: Faces = faces[(a != b) & (b != c) & (a != c)]
    return kept


def _drop_duplicates(faces: Faces) -> Faces:
    """Keep one of equal faces; the same corners in the opposite sense are the other side of a thin sheet, and stay."""
    turn = faces.argmin(1)
    rows = np.arange(len(faces))
    turned: Faces = np.unique(np.stack([faces[rows, (turn + i) % 3] for i in range(3)], 1), axis=0)
    return turned


def _corner_normals(centre: Vectors, faces: Faces, old: Faces, area_normals: Vectors, count: int) -> Vectors:
    """Normals of the new faces' corners [3 F', 3]: the old faces around a corner, those within the crease angle."""
    flat = _area_normals(centre, faces)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    owner = old.reshape(-1)
    order = np.argsort(owner, kind="stable")
    start = np.searchsorted(owner[order], np.arange(count + 1))
    corners = faces.reshape(-1)
    lengths = start[corners + 1] - start[corners]
    corner_of_pair = np.repeat(np.arange(len(corners)), lengths)
    within = np.arange(len(corner_of_pair)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    old_face = order[start[corners][corner_of_pair] + within] // 3
    candidates, own = area_normals[old_face], flat[corner_of_pair // 3]
    size = np.linalg.norm(candidates, axis=1)
    smooth = (candidates * own).sum(1) > _CREASE_COS * size
    picked = candidates * smooth[:, None]
    total = np.stack([np.bincount(corner_of_pair, picked[:, i], len(corners)) for i in range(3)], 1)
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(norm > 1e-12, total / np.maximum(norm, 1e-12), np.repeat(flat, 3, 0))

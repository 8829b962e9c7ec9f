"""The networks: rank-4 primitives, S3D-G built from them, and the form of it that is deployed."""

from d3d_edge.models.count import mac_count, parameter_count
from d3d_edge.models.recogniser import Recogniser
from d3d_edge.models.s3dg import S3DG

__all__ = ["S3DG", "Recogniser", "mac_count", "parameter_count"]

"""Alignment of the student's hidden states with the teacher's.

The factorised temporal alignment of DistilTS (Li et al., ICASSP 2026, arXiv 2601.12785), and
two plain alternatives it has to beat. Each is a module with parameters of its own, trained
together with the student and thrown away after ``fit``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "FactorisedAlignment",
    "LinearAlignment",
    "RelationalAlignment",
    "make_aligner",
]

#: Width of the factorised alignment: the paper's.
WIDTH = 256


class FactorisedAlignment(nn.Module):
    r"""Predict the teacher's state at each position from the student's one state.

    .. math:: \mathrm{mean}_{c,p}\,\lVert V\,\mathrm{gelu}((U s_c) \odot E_p) - h_{c,p} \rVert^2

    with ``s_c`` the student's state of component c and ``h_{c,p}`` the teacher's at position p;
    ``U``, ``V`` and ``E`` are learned.

    >>> aligner = FactorisedAlignment(student_size=8, teacher_size=4, n_positions=3)
    >>> aligner(torch.zeros(2, 5, 8), torch.ones(2, 5, 3, 4)).shape
    torch.Size([2])
    """

    def __init__(
        self, student_size: int, teacher_size: int, n_positions: int, width: int = WIDTH
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(student_size, width)
        self.position = nn.Parameter(1.0 + 0.5 * torch.randn(n_positions, width))
        self.read = nn.Linear(width, teacher_size)

    def predict(self, student: Tensor) -> Tensor:
        """Return the states expected of the teacher: (B, C, d_s) -> (B, C, P, d_h)."""
        return self.read(F.gelu(self.embed(student)[:, :, None] * self.position))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return each window's mean squared error: (B, C, d_s), (B, C or 1, P, d_h) -> (B,)."""
        return ((self.predict(student) - teacher) ** 2).mean((1, 2, 3))


class LinearAlignment(nn.Module):
    """Predict the mean of the teacher's states over positions, linearly.

    >>> aligner = LinearAlignment(student_size=8, teacher_size=4)
    >>> aligner(torch.zeros(2, 5, 8), torch.ones(2, 1, 3, 4)).shape
    torch.Size([2])
    """

    def __init__(self, student_size: int, teacher_size: int) -> None:
        super().__init__()
        self.read = nn.Linear(student_size, teacher_size)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared error of each window: (B, C, d_s), (B, C, P, d_h) -> (B,)."""
        return ((self.read(student) - teacher.mean(2)) ** 2).mean((1, 2))


class RelationalAlignment(nn.Module):
    """Match the similarities between the windows of a batch; nothing to learn.

    The cosines between the students' states of all windows and components are to be those between
    the teacher's (after relational knowledge distillation, Park et al., CVPR 2019).

    >>> states = torch.randn(6, 1, 8)
    >>> bool((RelationalAlignment()(states, states[:, :, None]) < 1e-10).all())
    True
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared difference of each window's cosines to all others.

        (B, C, d_s), (B, C or 1, P, d_h) -> (B,).
        """
        pooled = teacher.mean(2)
        # One state for all components is compared with the students' mean.
        rows = student if pooled.shape[1] > 1 else student.mean(1, keepdim=True)
        ours, theirs = (F.normalize(r.flatten(0, 1), dim=-1) for r in (rows, pooled))
        squared = (ours @ ours.T - theirs @ theirs.T) ** 2
        return squared.mean(1).unflatten(0, rows.shape[:2]).mean(1)


def make_aligner(
    kind: str, student_size: int, teacher_size: int, n_positions: int
) -> FactorisedAlignment | LinearAlignment | RelationalAlignment:
    """Build an aligner, "factorised", "linear" or "relational".

    It takes the student's states (B, C, d_s) and the teacher's (B, C, P, d_h), and gives each
    window's loss (B,).
    """
    if kind == "factorised":
        return FactorisedAlignment(student_size, teacher_size, n_positions)
    if kind == "linear":
        return LinearAlignment(student_size, teacher_size)
    return RelationalAlignment()

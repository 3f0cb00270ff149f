import numpy as np
import pytest

torch = pytest.importorskip("torch")

from distilts_forecaster.students.alignment import (  # noqa: E402
    FactorisedAlignment,
    LinearAlignment,
    RelationalAlignment,
    make_aligner,
)

B, C, P, DS, DH = 6, 2, 3, 5, 4


@pytest.fixture
def states():
    torch.manual_seed(0)
    return torch.randn(B, C, DS), torch.randn(B, C, P, DH)


def test_factorised_alignment_is_the_papers_formula(states):
    student, teacher = states
    aligner = FactorisedAlignment(DS, DH, P, width=7)
    u, v = aligner.embed, aligner.read
    for b in range(B):
        terms = []
        for c in range(C):
            for p in range(P):
                inner = (u.weight @ student[b, c] + u.bias) * aligner.position[p]
                expected = v.weight @ torch.nn.functional.gelu(inner) + v.bias
                terms.append(((expected - teacher[b, c, p]) ** 2).mean())
        torch.testing.assert_close(aligner(student, teacher)[b], torch.stack(terms).mean())


@pytest.mark.parametrize("kind", ["factorised", "linear", "relational"])
def test_one_state_for_all_components_is_the_same_as_a_copy_for_each(kind, states):
    student, teacher = states
    aligner = make_aligner(kind, DS, DH, P)
    shared = teacher[:, :1]
    if kind == "relational":  # compares one state for each window
        assert aligner(student, shared).shape == (B,)
    else:
        torch.testing.assert_close(
            aligner(student, shared), aligner(student, shared.expand(-1, C, -1, -1))
        )


@pytest.mark.parametrize("kind", ["factorised", "linear"])
def test_training_an_aligner_makes_the_students_states_predict_the_teachers(kind):
    torch.manual_seed(0)
    mixing = torch.randn(P, DS, DH)
    student = torch.randn(400, C, DS)
    teacher = torch.einsum("bcd,pdh->bcph", student, mixing)
    aligner = make_aligner(kind, DS, DH, P)
    optimiser = torch.optim.Adam(aligner.parameters(), lr=1e-2)
    before = aligner(student[200:], teacher[200:]).mean().item()
    for _ in range(300):
        optimiser.zero_grad()
        aligner(student[:200], teacher[:200]).mean().backward()
        optimiser.step()
    after = aligner(student[200:], teacher[200:]).mean().item()
    assert after < 0.2 * before


def test_positions_are_told_apart_only_by_the_factorised_alignment():
    # Opposite states at two positions: their mean says nothing, each by itself everything.
    torch.manual_seed(0)
    student = torch.randn(300, 1, DS)
    one = student @ torch.randn(DS, DH)
    teacher = torch.stack([one, -one], dim=2)
    aligner = FactorisedAlignment(DS, DH, 2)
    optimiser = torch.optim.Adam(aligner.parameters(), lr=1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        aligner(student, teacher).mean().backward()
        optimiser.step()
    assert aligner(student, teacher).mean() < 0.1 * (teacher**2).mean()


def test_relational_alignment_is_blind_to_rotations_and_scales(states):
    student, _ = states
    rotation, _ = torch.linalg.qr(torch.randn(DS, DS))
    aligner = RelationalAlignment()
    rotated = (3.0 * student @ rotation)[:, :, None]
    np.testing.assert_allclose(aligner(student, rotated).numpy(), 0.0, atol=1e-10)
    assert (aligner(student, torch.randn(B, C, 1, DS)) > 1e-3).all()


def test_plain_alternatives_have_the_parameters_they_say():
    assert not list(RelationalAlignment().parameters())
    assert sum(p.numel() for p in LinearAlignment(DS, DH).parameters()) == DS * DH + DH

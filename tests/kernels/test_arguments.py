"""What operators remember of arguments that have passed their checks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bdam_kernels import backends, bidirectional_cross_attention, dispatch, selective_scan
from bdam_kernels.ops.arguments import checked_once, unit_strides

pytestmark = pytest.mark.skipif(bool(backends()["cpu"]), reason=f"backend cpu: {backends()['cpu']}")

LIKE = torch.zeros(2, 3)


class Subclass(Tensor):
    pass


@pytest.mark.parametrize("other", [torch.ones(2, 3), torch.nn.Parameter(LIKE), torch.zeros(4, 6)[:2, :3]])
def test_kinds_are_equal_for_what_checks_cannot_tell_apart(other: Tensor) -> None:
    assert dispatch.kinds(LIKE, None) == dispatch.kinds(other, None) is not None


@pytest.mark.parametrize(
    "others",
    [
        (torch.zeros(2, 3, dtype=torch.float64),),
        (torch.zeros(2, 3, dtype=torch.int32),),
        (torch.zeros(2, 3, dtype=torch.bfloat16),),
        (torch.zeros(3, 2),),
        (torch.zeros(2, 3, 1),),
        (torch.zeros(3, 2).t(),),
        (LIKE, LIKE),
        (LIKE, None),
        (None,),
    ],
)
def test_kinds_differ_where_checks_may(others: tuple[Tensor | None, ...]) -> None:
    assert dispatch.kinds(*others) != dispatch.kinds(LIKE)


@pytest.mark.parametrize(
    "other",
    [
        LIKE.as_subclass(Subclass),
        LIKE.to_sparse(),
        LIKE.to("meta"),
        torch.zeros(1, 1, 1, 1, 1),
        FakeTensorMode().from_tensor(LIKE),
    ],
)
def test_of_other_than_plain_tensors_nothing_is_remembered(other: Tensor) -> None:
    asked = []

    @checked_once
    def check(*tensors: Tensor | None) -> bool:
        asked.append(tensors)
        return True

    assert dispatch.kinds(other) is None
    assert check(other) and check(other) and len(asked) == 2


def test_a_kind_is_checked_until_it_passes() -> None:
    asked = []

    @checked_once
    def check(*tensors: Tensor | None) -> bool:
        asked.append(tensors)
        if len(asked) == 1:
            raise ValueError("no")
        return False

    with pytest.raises(ValueError, match="no"):
        check(LIKE)
    assert [check(LIKE), check(LIKE + 1)] == [False, False] and len(asked) == 2


def test_wrong_arguments_are_refused_after_right_ones() -> None:
    q, longer = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    bidirectional_cross_attention(q, q, q, longer, longer, longer)
    with pytest.raises(ValueError, match="k_b must be"):
        bidirectional_cross_attention(q, q, q, longer, q, longer)
    with pytest.raises(TypeError, match="v_a must be"):
        bidirectional_cross_attention(q, q, q.double(), longer, longer, longer)
    # Autocast gives dtypes that differ one; without it the same arguments are wrong.
    mixed = (q, q.bfloat16(), q, longer, longer, longer)
    with torch.autocast("cpu", torch.bfloat16):
        assert bidirectional_cross_attention(*mixed)[0].dtype == torch.bfloat16
    with pytest.raises(TypeError, match="k_a must be"):
        bidirectional_cross_attention(*mixed)


def test_strides_of_arguments_of_a_known_kind_may_differ() -> None:
    u, A, B = torch.randn(2, 3, 5), -torch.rand(3, 4), torch.randn(2, 4, 5)
    D = torch.randn(3)
    expected = selective_scan(u, u, A, B, B, D)
    apart = torch.stack((D, D), dim=1)[:, 0]
    assert torch.equal(selective_scan(u, u, A, B, B, apart), expected)
    assert torch.equal(selective_scan(u.mT.contiguous().mT, u, A, B, B, D), expected)


def test_unit_strides_copies_only_what_lacks_them() -> None:
    apart = torch.zeros(3, 2).t()
    whole, copied = unit_strides(LIKE, apart)
    assert whole is LIKE and copied.is_contiguous() and torch.equal(copied, apart)
    assert unit_strides(LIKE, LIKE) == (LIKE, LIKE)

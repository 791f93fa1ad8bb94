"""Numbers that follow from dims: polynomials read off large values."""

from __future__ import annotations

import pytest

from concatc.ir.numbers import numbers_of, with_numbers
from concatc.loops.polynomials import NotScalableError, polynomials
from tests.small_nets import NetBuilder

P, Q = 8388593, 8388587


def test_one_dim() -> None:
    def numbers(n: int) -> list[int]:
        return [0, 7, n, 12288 * n + 5, 3 * n - 4, n * n, 2 * n * n - n + 1]

    found = polynomials({"n": 64}, [({"n": P}, numbers(P))])
    for n in (1, 2, 64, 1000):
        assert found.at([n]).tolist() == numbers(n)


def test_two_dims() -> None:
    def numbers(x: int, y: int) -> list[int]:
        return [4, 3 * x, 5 * y, 4 * (x + y) + 1, x * x - y]

    samples = [
        ({"x": P, "y": 32}, numbers(P, 32)),
        ({"x": 64, "y": Q}, numbers(64, Q)),
        ({"x": P, "y": Q}, numbers(P, Q)),
    ]
    found = polynomials({"x": 64, "y": 32}, samples)
    assert found.at([7, 2]).tolist() == numbers(7, 2)


def test_a_product_of_dims_is_refused() -> None:
    samples = [({"x": P, "y": 32}, [P * 32]), ({"x": 64, "y": Q}, [64 * Q]), ({"x": P, "y": Q}, [P * Q])]
    with pytest.raises(NotScalableError, match="product of dims"):
        polynomials({"x": 64, "y": 32}, samples)


def test_what_is_no_polynomial_is_another_number_at_the_usual_size() -> None:
    found = polynomials({"n": 64}, [({"n": P}, [P // 2, -(-P // 64) * 64])])
    assert found.at([64]).tolist() != [32, 64]


def test_high_degrees_and_long_numbers_are_refused() -> None:
    with pytest.raises(NotScalableError, match="62 bits"):
        polynomials({"n": 64}, [({"n": P}, [P**3])])
    with pytest.raises(NotScalableError, match="high degree"):
        polynomials({"n": 4}, [({"n": 101}, [101**3])])


def test_integers_of_a_function_can_be_replaced() -> None:
    def net(rows: int) -> NetBuilder:
        net = NetBuilder()
        x = net.input("x", rows, 3)
        net.output("y", net.b.concat(x, net.b.reshape(net.b.relu(x), shape=(rows, 3)), axis=0))
        return net

    numbers, rest = numbers_of(net(4).module().functions)
    other, same = numbers_of(net(9).module().functions)
    assert same == rest
    assert other != numbers
    made = with_numbers(net(4).module().functions, other)
    assert numbers_of(made) == (other, rest)


def test_other_operations_are_no_other_size() -> None:
    def net(op: str) -> list[object]:
        net = NetBuilder()
        net.output("y", getattr(net.b, op)(net.input("x", 4, 3)))
        return numbers_of(net.module().functions)[1]

    assert net("relu") == net("relu") != net("tanh")


def test_a_coefficient_that_is_no_digit_is_refused() -> None:
    """It reads as another polynomial, which is right at the large size only."""
    for value in (lambda n: P * 3 // 4, lambda n: (P - 100) * n, lambda n: P // 2 + 5 + 7 * n):
        here, there = [value(64)], [value(P)]
        if here == there:
            assert polynomials({"n": 64}, [({"n": P}, there)], here, must="equal").at([7]).tolist() == here
        else:
            with pytest.raises(NotScalableError, match="otherwise here, or too large"):
                polynomials({"n": 64}, [({"n": P}, there)], here, must="equal")

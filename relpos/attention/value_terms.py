"""The terms of the output, each beside its gradient."""

import jax

from relpos.attention import reference
from relpos.attention.reference import dot, dot_rows
from relpos.attention.terms import Adds, ByDistance, ByPair, ValueTerm, plus


class Values(ValueTerm):
    """The products of the weights with v_j."""

    def forward(self, block, weights_CK, shrink_C, ring):
        value = block.k.value
        return dot(weights_CK.astype(value.dtype), value), ring

    def backward(self, block, weights_CK, ring, sums):
        d_weights_CK = dot_rows(block.rows.d_out_half, block.k.value)
        d_out_HC = block.rows.d_out_turned
        d_value = dot(d_out_HC, weights_CK.astype(d_out_HC.dtype))
        return Adds(weights=d_weights_CK, value=d_value), ring, sums


class ValueVectors(ByDistance, ValueTerm):
    """The products of the weights with a_V[d].

    In the forward pass, weights are summed by distance and multiplied with the vectors. In the backward pass, each pair
    takes its product of the output's gradient with the vectors.
    """

    def begin(self, block):
        return self.reach(block).first_sums(block.dtype)

    def forward(self, block, weights_CK, shrink_C, ring):
        ring = jax.tree.map(lambda x: x * shrink_C[:, None], ring)
        by_distance, ring = self.reach(block).write(weights_CK, ring)
        return self._product(block, by_distance), ring

    def end(self, block, ring):
        return None if ring is None else self._product(block, self.reach(block).write_rest(ring))

    def _product(self, block, by_distance_Cn):
        a_V = self.reach(block).written(self.here(block), by_distance_Cn.shape[1])
        return dot(by_distance_Cn, a_V.astype(block.dtype))

    def begin_backward(self, block):
        """Return two rings: of the products of the output's gradient with the vectors, and of the sums of weights."""
        products = self.reach(block).first_products(block.with_d_out, self.here(block))
        return products, self.reach(block).first_sums(block.dtype)

    def backward(self, block, weights_CK, ring, sums):
        reach, (products, rest) = self.reach(block), ring
        d_weights_CK, products = reach.read(block.with_d_out, self.here(block), products)
        by_distance, rest = reach.write(weights_CK, rest)
        sums = self._of_product(block, by_distance, sums)
        return Adds(weights=d_weights_CK), (products, rest), sums

    def end_backward(self, block, ring, sums):
        _, rest = ring
        if rest is not None:
            sums = self._of_product(block, self.reach(block).write_rest(rest), sums)
        return Adds(), sums

    def _of_product(self, block, by_distance_Cn, sums):
        d_a_V = dot(block.rows.d_out.T, by_distance_Cn)
        return sums.put(block, self.reach(block).add_written(sums.here(block), d_a_V))


class PairValues(ByPair, ValueTerm):
    """The products with untabulated value vectors."""

    def _values(self, block, state, weights_CK):
        tokens = block.rows.tokens, block.k_tokens
        return reference.position_values(self.encoding(state), self.rules, weights_CK, *tokens)

    def forward(self, block, weights_CK, shrink_C, ring):
        return self._values(block, self.state, weights_CK), ring

    def backward(self, block, weights_CK, ring, sums):
        of_block = lambda *x: self._values(block, *x)  # noqa: E731
        values, pull = jax.vjp(of_block, self.state, weights_CK)
        if values is None:
            return Adds(), ring, sums
        d_state, d_weights_CK = pull(block.rows.d_out.astype(values.dtype))
        return Adds(weights=d_weights_CK), ring, plus(sums, d_state)

"""The terms of the logits, each beside its gradient."""

import functools

import jax
from flax import struct
from jax import lax

from relpos.attention import reference
from relpos.attention.reference import Keys, Queries, dot, dot_rows
from relpos.attention.terms import Adds, ByDistance, ByPair, Logits, LogitTerm, only, plus


class Content(LogitTerm):
    """The dot products q_i . k_j."""

    def forward(self, block, ring):
        return Logits(dots=dot_rows(block.rows.q.content, block.k.key)), ring

    def backward(self, block, d, ring, sums):
        half_CK = d.dots.astype(block.k.key.dtype)
        d_content = dot(half_CK, block.k.key)
        d_key = dot(block.rows.q_turned.content, half_CK)
        return Adds(content=d_content, key=d_key), ring, sums


class KeyVectors(ByDistance, LogitTerm):
    """The dot products q_i . a_K[d].

    In the forward pass, queries are multiplied with the vectors of all distances in the block, and each pair takes its
    own product. In the backward pass, the gradients of the products are summed by distance.
    """

    def _products(self, block):
        """Return a function from vectors to their products with the queries."""
        return functools.partial(block.for_vectors, self.part)

    def begin(self, block):
        return self.reach(block).first_products(self._products(block), self.here(block))

    def forward(self, block, ring):
        dots_CK, ring = self.reach(block).read(self._products(block), self.here(block), ring)
        return Logits(dots=dots_CK), ring

    def begin_backward(self, block):
        return self.reach(block).first_sums(block.dtype)

    def backward(self, block, d, ring, sums):
        d_products_Cn, ring = self.reach(block).write(d.dots, ring)
        adds, sums = self._of_products(block, d_products_Cn, sums)
        return adds, ring, sums

    def end_backward(self, block, ring, sums):
        if ring is None:
            return Adds(), sums
        return self._of_products(block, self.reach(block).write_rest(ring), sums)

    def _of_products(self, block, d_products_Cn, sums):
        """Run the backward pass of products_Cn = q a_K.T."""
        reach = self.reach(block)
        d_products_Cn = d_products_Cn.astype(block.q_of(self.part).for_vectors.dtype)
        a_K = reach.written(self.here(block), d_products_Cn.shape[1]).astype(d_products_Cn.dtype)
        adds = Adds.for_vectors(block.rows.q, self.part, dot(d_products_Cn, a_K))
        d_a_K = dot(block.q_turned_of(self.part).for_vectors, d_products_Cn)
        return adds, sums.put(block, reach.add_written(sums.here(block), d_a_K))


class QueryVectors(ByDistance, LogitTerm):
    """The dot products k_j . a_Q[d]: `KeyVectors` with queries and keys exchanged."""

    def forward(self, block, ring):
        key = block.k_of(self.part).for_vectors
        return Logits(dots=self.reach(block).read_columns(key, self.here(block))), ring

    def backward(self, block, d, ring, sums):
        key, reach = block.k_of(self.part).for_vectors, self.reach(block)
        d_products_Kn = reach.write_columns(d.dots).astype(key.dtype)
        a_Q = reach.written_columns(self.here(block)).astype(key.dtype)
        d_key = dot_rows(a_Q.T, d_products_Kn)
        d_a_Q = reach.add_written(sums.here(block), dot(key.T, d_products_Kn))
        return Adds.for_query_vectors(block.k, self.part, d_key), ring, sums.put(block, d_a_Q)


class Bias(ByDistance, LogitTerm):
    """The biases b[d]; in the backward pass, the gradients of the logits are summed by distance."""

    reads_tokens = False

    def forward(self, block, ring):
        return Logits(bias=self.reach(block).read_bias(self.here(block))), ring

    def backward(self, block, d, ring, sums):
        d_b = self.reach(block).add_bias(sums.here(block), d.bias)
        return Adds(), ring, sums.put(block, d_b)


class PairLogits(ByPair, LogitTerm):
    """`block_bias`, and distance slots without a table."""

    part: int = struct.field(pytree_node=False)
    tabulated: bool = struct.field(pytree_node=False)  # whether tables hold the slots of distances

    def _logits(self, block, state, q_vector, k_vector, q_features, k_features):
        encoding = self.encoding(state)
        q, k = Queries(None, q_vector, q_features), Keys(None, None, k_features, k_vector)
        # Without the barrier, XLA would hoist what depends only on positions out of the loop over heads, and store it.
        tokens = lax.optimization_barrier((block.rows.tokens, block.k_tokens, block.k.key))[:2]
        dots_CK = bias_CK = None
        if not self.tabulated:
            dots_CK, bias_CK = reference.distance_logits(encoding, self.rules, q, k, *tokens)
        return Logits(dots_CK, plus(bias_CK, reference.block_bias(encoding, q, k, *tokens)))

    def _arguments(self, block):
        q, k = block.q_of(self.part), block.k_of(self.part)
        return self.state, q.for_vectors, k.for_vectors, q.features, k.features

    def forward(self, block, ring):
        return self._logits(block, *self._arguments(block)), ring

    def vjp(self, block, ring):
        logits, pull = jax.vjp(functools.partial(self._logits, block), *self._arguments(block))

        def backward(d, ring, sums):
            if not jax.tree.leaves(logits):
                return Adds(), ring, sums
            cast = lambda x, dx: None if x is None else dx.astype(x.dtype)  # noqa: E731
            d_state, of_queries, of_keys, q_features, k_features = pull(
                Logits(*map(cast, logits, d))
            )
            part = functools.partial(only, self.part, len(block.reaches))
            adds = Adds.for_query_vectors(block.k, self.part, of_keys.T)
            adds = adds.plus(Adds.for_vectors(block.rows.q, self.part, of_queries))
            adds = adds._replace(q_features=part(q_features), k_features=part(k_features))
            return adds, ring, plus(sums, d_state)

        return logits, ring, backward

    def backward(self, block, d, ring, sums):
        return self.vjp(block, ring)[2](d, ring, sums)

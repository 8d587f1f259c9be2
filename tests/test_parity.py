"""Weights of other implementations give the same results here.

Needs the extra 'parity'; without it every test here is skipped. Sources: the
packages linformer 0.2.3 and linformer-pytorch 0.19.3, and torch's own encoder
layer. Tolerances: two float32 computations each err by about the sum of the
lengths of their dot products, in eps of the largest value.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linformer_jax import attention, models
from tests import arrays

torch = pytest.importorskip("torch")
pypi = pytest.importorskip("linformer.linformer")
tensor = pytest.importorskip("linformer_pytorch.linformer_pytorch")

B, N, K, M, H, F = 2, 12, 4, 16, 4, 32
D = M // H
LENGTHS = (M, N, D, K, M)  # of one attention layer


def close(got, want, *lengths):
  want = want.detach().numpy()
  bound = 2 * sum(lengths) * arrays.EPS * max(1, np.max(abs(want)))
  np.testing.assert_allclose(got, want, rtol=0, atol=bound)


def dense(weight, bias=None):
  """A torch map [out, in] as a kernel [in, out] and a bias."""
  kernel = weight.detach().numpy().T
  if bias is None:
    return {"kernel": kernel, "bias": np.zeros(kernel.shape[1], np.float32)}
  return {"kernel": kernel, "bias": bias.detach().numpy()}


def of_pypi(theirs, one_kv_head, share_kv):
  """Our parameters for a linformer.LinformerSelfAttention.

  Its `share_kv` has W_K = W_V beside E = F; ours has E = F only, so that the
  map is given twice. Its `one_kv_head` has keys and values of one head; ours
  has H of them, so that the one is repeated.
  """

  def memory_map(layer):
    weight = layer.weight.repeat(H, 1) if one_kv_head else layer.weight
    return dense(weight)

  params = {
    "query": dense(theirs.to_q.weight),
    "key": memory_map(theirs.to_k),
    "value": memory_map(theirs.to_k if share_kv else theirs.to_v),
    "out": dense(theirs.to_out.weight, theirs.to_out.bias),
  }
  if share_kv:
    params["projection"] = {"kernel": theirs.proj_k.detach().numpy().T}
  else:
    for name, matrix in (("key", theirs.proj_k), ("value", theirs.proj_v)):
      params[f"{name}_projection"] = {"kernel": matrix.detach().numpy().T}
  return {"params": params}


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("share_kv", [False, True])
@pytest.mark.parametrize("one_kv_head", [False, True])
def test_linformer_of_pypi(one_kv_head, share_kv, order):
  torch.manual_seed(0)
  theirs = pypi.LinformerSelfAttention(
    M, N, k=K, heads=H, one_kv_head=one_kv_head, share_kv=share_kv
  )
  sharing = "key_value" if share_kv else "headwise"
  ours = attention.LinformerSelfAttention(H, N, K, sharing, order=order)
  variables = of_pypi(theirs, one_kv_head, share_kv)
  x, short = arrays.draw(B, N, M), arrays.draw(B, 7, M, seed=1)
  for queries, memory in ((x, None), (short, None), (short, x), (x, short)):
    context = None if memory is None else torch.from_numpy(memory)
    want = theirs(torch.from_numpy(queries), context=context)
    close(ours.apply(variables, queries, memory), want, *LENGTHS)


SHARING = {
  "none": "none",
  "headwise": "headwise",
  "kv": "key_value",
  "layerwise": "layerwise",
}
METHODS = {
  "learnable": "linear",
  "convolution": "convolution",
  "no_params": "random",
}


def weights_of(projection):
  """Our E or convolution kernel for theirs; their bias becomes zero.

  The paper's projections have no bias, and neither have ours.
  """
  if isinstance(projection, torch.Tensor):
    return projection.numpy().T  # no_params: [N, K], fixed
  with torch.no_grad():
    projection.bias.zero_()
  weight = projection.weight.detach().numpy()
  return weight.T if weight.ndim == 3 else weight  # [out, in, W] or [K, N]


def of_tensor(theirs, sharing, kind):
  """Our variables for a linformer_pytorch.MHAttention."""
  params = {"out": dense(theirs.w_o.weight, theirs.w_o.bias)}
  for name in ("query", "key", "value"):
    layers = getattr(theirs, f"to_{name[0]}")
    params[name] = dense(torch.cat([layer.weight for layer in layers]))
  projections = {}
  for name, side in (("key", "E"), ("value", "F")):
    each = [weights_of(getattr(head, side)) for head in theirs.heads]
    weights = np.stack(each) if sharing == "none" else each[0]
    leaf = "window_kernel" if kind == "convolution" else "kernel"
    projections[f"{name}_projection"] = {leaf: weights}
  if sharing in ("kv", "layerwise"):
    projections = {"projection": projections["key_projection"]}
  if kind == "random":
    return {"params": params, "constants": projections}
  return {"params": params | projections}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sharing", SHARING)
def test_linformer_pytorch(sharing, method):
  torch.manual_seed(0)
  kind = METHODS[method]
  one = tensor.get_EF(N, K, method, D)  # used when it is layerwise
  theirs = tensor.MHAttention(
    N, D, M, K, H, 0.0, "C0", sharing, one, one, False, None, method=method
  )
  variables = of_tensor(theirs, sharing, kind)
  ours = attention.LinformerSelfAttention(H, N, K, SHARING[sharing], kind)
  x, memory = arrays.draw(B, N, M), arrays.draw(B, N, M, seed=1)
  close(ours.apply(variables, x), theirs(torch.from_numpy(x)), *LENGTHS, D)
  theirs.decoder_mode = True
  want = theirs(torch.from_numpy(x), embeddings=torch.from_numpy(memory))
  close(ours.apply(variables, x, memory), want, *LENGTHS, D)
  if kind == "convolution":
    return  # it attends to slots without a real row, and ours does not
  mask = np.arange(N) < np.array([[N], [7]])
  want = theirs(
    torch.from_numpy(x),
    embeddings=torch.from_numpy(memory),
    input_mask=torch.from_numpy(mask),
  )
  close(ours.apply(variables, x, memory, mask), want, *LENGTHS)


def test_head_of_linformer_pytorch():
  """One head is `project_sequence` and `projected_attention`."""
  torch.manual_seed(0)
  maps = [tensor.get_EF(N, K, "learnable", D) for _ in range(2)]
  e, f = (attention.Projection("linear", N, K, weights_of(m)) for m in maps)
  head = tensor.LinearAttentionHead(D, 0.0, *maps, None)
  q, k, v = (arrays.draw(B, N, D, seed=i) for i in range(3))
  want = head(*map(torch.from_numpy, (q, k, v)))
  keys, _ = attention.project_sequence(k[:, :, None], e)
  values, _ = attention.project_sequence(v[:, :, None], f)
  got = attention.projected_attention(q[:, :, None], keys, values)
  close(got[:, :, 0], want, N, D, K)


def of_encoder_layer(theirs):
  """Our parameters for a torch.nn.TransformerEncoderLayer."""
  packed = theirs.self_attn
  weights = packed.in_proj_weight.chunk(3)
  biases = packed.in_proj_bias.chunk(3)
  names = ("query", "key", "value")

  def norm(layer):
    scale, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return {"scale": scale, "bias": bias}

  return {
    "attention": {
      "out": dense(packed.out_proj.weight, packed.out_proj.bias),
      **{
        name: dense(weight, bias)
        for name, weight, bias in zip(names, weights, biases, strict=True)
      },
    },
    "attention_norm": norm(theirs.norm1),
    "mlp_norm": norm(theirs.norm2),
    "mlp_in": dense(theirs.linear1.weight, theirs.linear1.bias),
    "mlp_out": dense(theirs.linear2.weight, theirs.linear2.bias),
  }


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_softmax_block_is_torchs_encoder_layer(norm_position):
  """Values, and gradients with respect to the input, with padding."""
  torch.manual_seed(0)
  theirs = torch.nn.TransformerEncoderLayer(
    M,
    H,
    F,
    dropout=0.0,
    activation="gelu",
    batch_first=True,
    norm_first=norm_position == "pre",
  )
  with torch.no_grad():  # its biases start at zero, its norms at one
    for i, parameter in enumerate(theirs.parameters()):
      if parameter.ndim == 1:
        parameter += 0.1 * torch.from_numpy(
          arrays.draw(*parameter.shape, seed=i)
        )
  kind = attention.SoftmaxConfig()
  config = models.ModelConfig(
    7, N, 1, M, H, F, kind, norm_position=norm_position
  )
  block = models.Block(config, kind)
  params = of_encoder_layer(theirs)
  x, toward = arrays.draw(B, N, M), arrays.draw(B, N, M, seed=1)
  if norm_position == "pre":  # of rows this small the norm's epsilon matters
    x *= np.float32(0.01)
  mask = np.arange(N) < np.array([[N], [7]])
  toward = toward * mask[..., None]

  rows = torch.from_numpy(x).requires_grad_()
  out = theirs(rows, src_key_padding_mask=torch.from_numpy(~mask))
  (out * torch.from_numpy(toward)).sum().backward()

  def loss(x):
    got = block.apply({"params": params}, x, mask)
    return jnp.sum(got * toward), got

  gradient, got = jax.grad(loss, has_aux=True)(x)
  lengths = (M, D, N, M, M, M, F, M)
  real = torch.from_numpy(mask)
  close(np.asarray(got)[mask], out[real], *lengths)
  close(np.asarray(gradient), rows.grad, *lengths, *lengths, N)

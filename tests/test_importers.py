"""Weights of two packages of PyPI give the same rows here.

Needs the extra 'parity'; without it every test here is skipped. Sources:
linformer 0.2.3 and linformer-pytorch 0.19.3. Both stack our `Block` exactly;
what our encoder has besides is one layer norm, after the pre-norm layers of
the former and before the post-norm layers of the latter. The tests run the
blocks alone, and the encoder against theirs with that layer norm.
"""

import jax
import numpy as np
import pytest

from linformer_jax import attention, models
from linformer_jax.models import importers
from tests import arrays

torch = pytest.importorskip("torch")
pypi = pytest.importorskip("linformer.linformer")
tensor = pytest.importorskip("linformer_pytorch.linformer_pytorch")

V, B, N, K, L, M, H, F = 11, 2, 12, 4, 2, 16, 4, 64
D = M // H
LENGTHS = L * (M, N, D, K, M, 3 * M, M, F, 3 * M)  # layer by layer
ONE = (M, N, D, D, K, M)  # of one attention


def close(got, want, *lengths):
  want = want.detach().numpy()  # two float32 computations
  arrays.close(got, want, *lengths, *lengths)


def filled(theirs, *, constant=()):
  """A torch model with random norms and biases, and its tensors.

  Parameters whose names end in one of `constant` are made constant.
  """
  with torch.no_grad():
    for i, (name, parameter) in enumerate(theirs.named_parameters()):
      if parameter.ndim == 1:
        parameter += 0.1 * torch.from_numpy(arrays.draw(len(parameter), seed=i))
      if name.endswith(constant):
        parameter[:] = parameter[0].clone()
  return {name: x.numpy() for name, x in theirs.state_dict().items()}


def layer_norm(x):
  return torch.nn.functional.layer_norm(x, (M,))


def rows_of_blocks(config, variables, x, causal=False):
  """Applies the blocks of an encoder, without its layer norm."""
  params, shared = variables["params"], None
  for i, kind in enumerate(config.layers):
    if kind.shares:
      (weights,) = params["projection"].values()
      shared = attention.Projection(kind.projection, N, K, weights)
    block = models.Block(config, kind, causal)
    layer = {"params": params[f"layer_{i}"]["block"]}
    x = block.apply(layer, x, shared=shared)
  return x


def has_tree_of(model, variables, x):
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  assert jax.tree.map(lambda x: x.shape, variables) == jax.tree.map(
    lambda x: x.shape, shapes
  )


@pytest.mark.parametrize("n", [N, 7])
@pytest.mark.parametrize("share_kv", [False, True])
@pytest.mark.parametrize("one_kv_head", [False, True])
def test_linformer_lm(one_kv_head, share_kv, n):
  torch.manual_seed(0)
  options = {"one_kv_head": one_kv_head, "share_kv": share_kv}
  theirs = pypi.LinformerLM(V, M, N, L, k=K, heads=H, **options)
  config, variables = importers.linformer.convert(filled(theirs), H)
  sharing = "key_value" if share_kv else "headwise"
  assert config.attention.sharing == sharing
  tokens = np.random.default_rng(0).integers(0, V, (B, n))
  rows = theirs.token_emb(torch.from_numpy(tokens))
  rows = rows + theirs.pos_emb.weight[:n]
  want = theirs.linformer(rows)
  blocks = rows_of_blocks(config, variables, rows.detach().numpy())
  close(blocks, want, *LENGTHS)
  model = models.TokenEncoder(config)
  has_tree_of(model, variables, tokens)
  want = layer_norm(want)
  close(model.apply(variables, tokens), want, *LENGTHS, 3 * M)


@pytest.mark.parametrize("n", [N, 7])
def test_linformer_of_rows(n):
  torch.manual_seed(0)
  theirs = pypi.Linformer(M, N, L, k=K, heads=H)
  config, variables = importers.linformer.convert(filled(theirs), H)
  x = arrays.draw(B, n, M)
  model = models.Encoder(config)
  has_tree_of(model, variables, x)
  want = layer_norm(theirs(torch.from_numpy(x)))
  close(model.apply(variables, x), want, *LENGTHS, 3 * M)


@pytest.mark.parametrize("share_kv", [False, True])
@pytest.mark.parametrize("one_kv_head", [False, True])
def test_linformer_attention(one_kv_head, share_kv):
  torch.manual_seed(0)
  options = {"one_kv_head": one_kv_head, "share_kv": share_kv}
  theirs = pypi.LinformerSelfAttention(M, N, k=K, heads=H, **options)
  module, variables = importers.linformer.convert_attention(filled(theirs), H)
  x, short = arrays.draw(B, N, M), arrays.draw(B, 7, M, seed=1)
  for queries, memory in ((x, None), (short, None), (short, x), (x, short)):
    context = None if memory is None else torch.from_numpy(memory)
    want = theirs(torch.from_numpy(queries), context=context)
    close(module.apply(variables, queries, memory), want, *ONE)


SHARING = {
  "none": "none",
  "headwise": "headwise",
  "kv": "key_value",
  "layerwise": "layerwise",
}
METHODS = {"learnable": "linear", "convolution": "convolution"}
# Biases of a learnable E and F, which are of slots: here they must be constant.
OF_SLOTS = {"learnable": (".E.bias", ".F.bias"), "convolution": ()}


def of_tensor(method="learnable", **options):
  """A linformer_pytorch.Linformer and its tensors."""
  torch.manual_seed(0)
  options = {"dim_k": K, "dim_ff": F, "nhead": H, "depth": L} | options
  theirs = tensor.Linformer(N, M, method=method, **options).eval()
  return theirs, filled(theirs, constant=OF_SLOTS[method])


def agrees(theirs, config, variables, causal=False):
  x = arrays.draw(B, N, M)
  want = theirs(torch.from_numpy(x))
  blocks = rows_of_blocks(config, variables, x, causal)
  close(blocks, want, *LENGTHS, *L * (D,))
  model = models.Encoder(config, causal)
  has_tree_of(model, variables, x)
  want = theirs(layer_norm(torch.from_numpy(x)))
  close(model.apply(variables, x), want, 3 * M, *LENGTHS, *L * (D,))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sharing", SHARING)
def test_linformer_pytorch(sharing, method):
  theirs, given = of_tensor(method, parameter_sharing=sharing)
  settings = {"input_size": N, "activation": "gelu", "dropout": 0.1}
  config, variables = importers.linformer_pytorch.convert(given, settings)
  assert config.attention.sharing == SHARING[sharing]
  assert config.attention.projection == METHODS[method]
  agrees(theirs, config, variables)


def test_linformer_pytorch_with_fewer_slots_by_layer():
  theirs, given = of_tensor(parameter_sharing="none", k_reduce_by_layer=1)
  config, variables = importers.linformer_pytorch.convert(given)
  lengths = [layer.projected_length for layer in config.layers]
  assert lengths == [K, K - 1]
  agrees(theirs, config, variables)


def test_linformer_pytorch_with_two_output_maps():
  theirs, given = of_tensor(w_o_intermediate_dim=5)
  config, variables = importers.linformer_pytorch.convert(given)
  agrees(theirs, config, variables)


@pytest.mark.parametrize("causal", [False, True])
def test_linformer_pytorch_with_full_attention(causal):
  settings = {"full_attention": True, "causal": causal}
  theirs, given = of_tensor(**settings)
  config, variables = importers.linformer_pytorch.convert(given, settings)
  assert config.attention == attention.SoftmaxConfig()
  agrees(theirs, config, variables, causal)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sharing", SHARING)
def test_linformer_pytorch_attention(sharing, method):
  torch.manual_seed(0)
  one = tensor.get_EF(N, K, method, D)  # used when it is layerwise
  theirs = tensor.MHAttention(
    N, D, M, K, H, 0.0, "C0", sharing, one, one, False, None, method=method
  )
  module, variables = importers.linformer_pytorch.convert_attention(
    filled(theirs, constant=OF_SLOTS[method]), {"input_size": N}
  )
  bias = variables["params"]["key"]["bias"]  # which softmax does not show
  of_heads = [head.E.bias.detach().numpy() for head in theirs.heads]
  if method == "learnable":
    of_heads = np.repeat([x[0] for x in of_heads], D)
  np.testing.assert_array_equal(bias, np.ravel(of_heads))
  x, memory = arrays.draw(B, N, M), arrays.draw(B, N, M, seed=1)
  close(module.apply(variables, x), theirs(torch.from_numpy(x)), *ONE)
  theirs.decoder_mode = True
  want = theirs(torch.from_numpy(x), embeddings=torch.from_numpy(memory))
  close(module.apply(variables, x, memory), want, *ONE)


@pytest.mark.parametrize("causal", [False, True])
def test_linformer_pytorch_full_attention_alone(causal):
  torch.manual_seed(0)
  mask = tensor.gen_causal_mask(N, K, full_attention=True) if causal else None
  theirs = tensor.MHAttention(
    N, D, M, K, H, 0.0, "C0", "none", None, None, True, mask
  )
  module, variables = importers.linformer_pytorch.convert_attention(
    filled(theirs), {"full_attention": True, "causal": causal}
  )
  x = arrays.draw(B, N, M)
  close(module.apply(variables, x), theirs(torch.from_numpy(x)), M, D, N, M)


def refuses(said, convert, *args):
  with pytest.raises(ValueError) as error:
    convert(*args)
  assert said in str(error.value) and "\n" not in str(error.value)


def test_what_is_refused_of_linformer():
  def given(**options):
    options = {"k": K, "heads": H} | options
    return pypi.LinformerLM(V, M, N, 1, **options).state_dict()

  convert, known = importers.linformer.convert, given()
  at = "linformer.net.layers.0."
  refuses("reversible", convert, given(reversible=True), H)
  refuses("to_q.weight has 12 rows, not the 16", convert, given(dim_head=3), H)
  refuses("projected_length 13 must lie", convert, given(k=13), H)
  refuses("not divisible by num_heads 3", convert, known, 3)
  refuses("to_k.weight has shape (4, 16)", convert, given(one_kv_head=True), 2)
  wrong = {f"{at}1.fn.w1.weight": np.ones((2 * F, M), np.float32)}  # a GLU
  refuses("not (128,)", convert, known | wrong, H)
  refuses("1 tensors are not known here: x", convert, known | {"x": 1}, H)
  missing = {name: x for name, x in known.items() if "proj_v" not in name}
  refuses(f"no tensor {at}0.fn.proj_v", convert, missing, H)
  refuses("no tensor net.layers.0.0.fn.to_q.weight", convert, {}, H)
  alone = pypi.LinformerSelfAttention(M, N, k=13, heads=H).state_dict()
  convert = importers.linformer.convert_attention
  refuses("projected_length 13 must lie", convert, alone, H)
  refuses("no tensor to_q.weight", convert, known, H)


def test_what_is_refused_of_linformer_pytorch():
  def given(size=N, **options):
    options = {"dim_k": K, "dim_ff": F, "nhead": H, "depth": L} | options
    found = tensor.Linformer(size, M, **options).state_dict()
    slots = (".E.bias", ".F.bias") if "method" not in options else ()
    return {x: 0 * y if x.endswith(slots) else y for x, y in found.items()}

  convert, known = importers.linformer_pytorch.convert, given()
  for name, value in {
    "activation": "relu",
    "causal": True,
    "decoder_mode": True,
  }.items():
    refuses(f"{name}={value!r} is not supported", convert, known, {name: value})
  both = {"decoder_mode": True, "full_attention": True}
  refuses("decoder_mode=True is not supported", convert, known, both)
  bias = {"seq.0.fn.heads.1.F.bias": np.arange(K, dtype=np.float32)}
  refuses("seq.0.fn.heads.1.F.bias differs", convert, known | bias)
  fixed = given(method="no_params")
  refuses("no tensor seq.0.fn.heads.0.E.weight: ", convert, fixed)
  windows = given(method="convolution")
  refuses("give settings={'input_size': N}", convert, windows)
  refuses("input_size 13 is not", convert, windows, {"input_size": 13})
  refuses("not (4, 13)", convert, known, {"input_size": 13})
  refuses("4 heads of 3 columns, not the 16", convert, given(dim_d=3))
  wide = given(ff_intermediate=8, parameter_sharing="none")
  refuses("resample.weight: ", convert, wide)
  bare = given(include_ff=False)
  refuses("no tensor seq.1.fn.w_1.weight", convert, bare)
  whole = tensor.LinformerLM(V, N, M, dim_k=K, nhead=H).state_dict()
  refuses("to_token_emb.weight: ", convert, whole)
  refuses("1 tensors are not known here: x", convert, known | {"x": 1})
  refuses("no tensor seq.0.fn.to_q.0.weight", convert, {})
  no_size = {"full_attention": True}
  refuses("give settings={'input_size': N}", convert, fixed, no_size)
  refuses(
    "no tensor to_q.0.weight",
    importers.linformer_pytorch.convert_attention,
    known,
  )

"""Bytes of collectives, counted by hand."""

from linformer_jax.tools import hlo

# A program of one device as compilers print it: a loop of 5 whose length is in
# its condition, one of 3 that says so, one that compares with no constant.
HLO = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  ROOT %sum = f32[] add(%a, %b)
}

%wrapped (p: f32[2]) -> f32[8] {
  ROOT %all-gather.1 = f32[8]{0} all-gather(%p), dimensions={0}
}

%below_five (p: (s32[], bf16[4,10])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[]{:T(512)} compare(%i, %five), direction=LT
}

%unknown (p: (s32[], f32[])) -> pred[] {
  ROOT %lt.2 = pred[] compare(%i, %n), direction=LT
}

%inner (p: (s32[], bf16[4,10])) -> (s32[], bf16[4,10]) {
  %ar = bf16[4,10]{1,0:T(8,128)(2,1)S(1)} all-reduce(%x), to_apply=%add
}

%outer (p: (s32[], bf16[4,10])) -> (s32[], bf16[4,10]) {
  %w = (s32[], bf16[4,10]) while(%t), condition=%below_five, body=%inner
}

%lost (p: (s32[], f32[])) -> (s32[], f32[]) {
  %rs = f32[6]{0} reduce-scatter(%x), dimensions={0}, to_apply=%add
}

ENTRY %main (x: f32[2]) -> f32[8] {
  %both = (f32[3,2]{1,0:T(8,128)}, /*index=1*/pred[7]) all-reduce(%x, %y), \
to_apply=%add
  %w.1 = (s32[], bf16[4,10]) while(%t), condition=%unknown, body=%outer, \
backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0"}}
  %w.2 = (s32[], f32[]) while(%u), condition=%unknown, body=%lost
  %start = ((f32[2]), f32[8], s32[]) async-start(%x), calls=%wrapped
  %done = f32[8] async-done(%start), calls=%wrapped
  %permute = (f32[9], f32[9], u32[]) collective-permute-start(%x)
  %permuted = f32[9]{0} collective-permute-done(%permute)
  ROOT %last = f32[8] add(%done, %done)
}
"""


def test_collectives_count_loops_and_asynchronous_pairs():
  assert hlo.collectives(HLO) == {
    "all-reduce": 3 * 2 * 4 + 7 + 3 * 5 * 4 * 10 * 2,
    "reduce-scatter (in a loop of unknown length, counted once)": 6 * 4,
    "all-gather": 8 * 4,
    "collective-permute": 9 * 4,
  }

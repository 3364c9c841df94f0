"""Owl-1 (arXiv 2412.09600): a vision-language model carries the state of a world, a video diffusion model films it, the film updates it.

  (1) o_t = D(s_t, o_{t−1})          the film model D films the state; the last frame before joins the clips
  (2) d_t = f(s_t, o_t)              the language model f says in text what happens next
  (3) s_{t+1} = g(s_t, d_t)          and g, the same model, imagines the next state
  (4) s_{t+1} = h(s_0, o_0, …, o_t)  in practice one causal pass over all that was: the states are outputs at Q learned queries
  (5) Seq = […, s_t, o_t, d_t, …]
  (6) Seq_align = [I, t, s_0, o_0, t, …, s_t, o_t, t, …]
  (7) L_align = MSE(s_t, T(t))       T: the film model's text encoder
  (8) L_film = ‖target − D(o_{t,m}, m, s_t, o_{t−1})‖²
  (9) Seq_world = [I, t, s_0, o_0, d_0, …]

`config`   what the paper leaves open, as typed choices      `state`     queries, connector, alignment
`sequence` pieces of (5), (6), (9)                           `model`     the parts together
`context`  what stays in the cache when it fills             `world`     the loop (1) to (3)
`objective` the losses                                       `history`   the past that they see, against drift
`train`    one trainer, the stage is data                    `run`       folders
`generate` a film and its storyboard                         `shoot`     a clip
`parts`    the clips of a film in the making                 `evaluate`  beside baselines (`ways`), by what is seen (`judge`)

Letters as in WORKSPACE.md; n counts the clips of one film.
"""

"""`everview bench scaling`: what several GPUs, Ray with DeepSpeed, commits and feeding cost.

Five benchmarks, each by itself; a ratio's two sides take turns in one run, medians count.

- data parallel: tokens/s of N ranks over one's, as many scenes a rank, through `open_run`,
  `take_step` and the agreement after it, as `everview train --workers N` does.
- context parallel: one capture's frames divided among N ranks; time over 1/N of one rank's.
- Ray Train + DeepSpeed: `train` bare, with DeepSpeed in a plain process, and on a Ray cluster.
- checkpoint stall: time that training loses to one commit, as a share of a minute.
- feed: views/s that scenes are made or decoded at, over what training uses up at `data.reuse`.

Before the first two, ranks are held against one process in float32.

Predictions for two H200 on one NVLink host, written before measuring. An all-reduce of S bytes
between two ranks moves S each way: at 300 GB/s (450 a direction, less NCCL's share, without
multicast) 0.2 ms for 60 MB, 2.4 ms for 720 MB.

    row                           prediction
    data parallel, 15M            65K tokens a rank in 65 ms captured (83 measured with its pool's
                                  refreshes, campaign log 4). Exchange: gradients 60 MB, 0.2 ms +
                                  0.1 ms to pack and divide: 1.98x. Launched one by one: 115 ms of
                                  host work, the agreement on the host 0.3 ms more: 1.98x.
    context, 14 layers d 768,     one: 280 ms. Divided by two: all but what a capture costs once:
      65K tokens                  Newton-Schulz (14 x 0.14 ms forward, 14 x 0.25 backward) 5.5 ms.
                                  Exchanged: 14 x 14 MB forward and backward 2.2 ms, gradients
                                  of 156M weights 2.1 ms + 0.9 to pack. AdamW 1.5 ms once.
                                  140 + 3.5 + 5.2 = 149 ms: 6 % over half, more than the goal's 3.
      131K tokens                 the same 8.7 ms on 280: 3 %.
    Ray Train + DeepSpeed,        step 172 ms. ZeRO 0: an added pass over 360 MB of gradients, 0.3
      8 layers d 768              ms; ZeRO 2: gradients into one flat buffer and weights back, 1.5
                                  GB, 0.4 ms, and hooks on 150 parameters, hidden by the GPU: 1 %.
                                  Ray Train: nothing in a step.
    checkpoint stall, 312M        2.5 GB to pageable host memory at 3 to 5 GB/s: 0.5 to 0.8 s, and
                                  what the writer holds the interpreter for (a copy into bytes, 2.5
                                  GB at 5 GB/s: 0.5 s): 1.0 to 1.3 s of 60: 2 %.
    checkpoint stall, 15M         a twentieth: 0.1 %.
    feed, first_light             16 scenes x 20 views / 12 uses = 27 views a step, 330 views/s.
                                  Rendered: thousands, over 10x. Decoded by two threads at 128 px
                                  with depth: 1.5 ms a view, 1,300 views/s: 4x.
"""

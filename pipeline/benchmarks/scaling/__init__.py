"""`everview bench scaling`: what several GPUs, Ray with DeepSpeed, commits and feeding cost.

Five benchmarks, each by itself; a ratio's two sides take turns in one run, medians count.

- data parallel: tokens/s of N ranks over one's, as many scenes a rank, through `open_run`,
  `take_step` and the agreement after it, as `everview train --workers N` does.
- context parallel: one capture's frames divided among N ranks; time over 1/N of one rank's.
- Ray Train + DeepSpeed: `train` bare, with DeepSpeed in a plain process, and on a Ray cluster.
- checkpoint stall: time that training loses to one commit, as a share of a minute.
- feed: views/s that scenes are made or decoded at, over what training uses up at `data.reuse`.

Before the first two, ranks are held against one process in float32.

Floors and predictions for two H200 on one NVLink host, written before measuring. An all-reduce of
S bytes between two ranks moves S each way: at 450 GB/s at least 0.13 ms for 60 MB and 1.6 ms for
728 MB; NCCL reaches perhaps 300 without multicast, 0.2 and 2.4 ms.

  row                       floor    prediction, and from what
  data parallel, 15M        1.996x   1.98x. 65K tokens a rank in 65 ms captured (83 with the pool's
                                     refreshes, campaign log 4); gradients 60 MB, 0.2 ms + 0.1 to
                                     pack and divide. One by one: 115 ms of launches, the
                                     agreement on the host 0.3 ms more.
  context, 14 layers        3 %      6.5 %. One rank: 280 ms, of them once for a capture, so not
    d 768, 65K tokens                divided: Newton-Schulz 14 x (0.14 forward + 0.25 backward),
                                     AdamW 1.5. Exchanged: 14 sums of 14 MB forward and again
                                     backward, 2.2; gradients of 182M weights, 2.4 + 1.0 to pack.
                                     7 / 2 + 5.6 = 9.1 ms on 140.
    131K tokens             1.5 %    3.3 %: the same 9.1 ms on 280
  Ray Train + DeepSpeed,    0        1 %. Step 350 ms. ZeRO 0: one more pass over 416 MB of
    8 layers d 768,                  gradients, 0.2 ms; ZeRO 2: gradients into one flat buffer and
    131K tokens                      weights back, 1.7 GB, 0.4 ms, and hooks on 150 parameters that
                                     the GPU hides. Ray Train: nothing in a step.
  checkpoint stall, 312M    0.1 %    1.1 %. 2.5 GB at 50 GB/s are the floor; to pageable memory 3 to
                                     5 GB/s, 0.5 to 0.8 s of 60. Writing doesn't hold the
                                     interpreter (safetensors 0.8; older releases do).
  checkpoint stall, 15M              0.1 %, a twentieth
  feed, first_light                  16 scenes x 20 views / 12 uses = 27 views a step, 330 views/s.
                                     Rendered: thousands, over 10x. Decoded by two threads at
                                     128 px with depth: 1.5 ms a view, 1,300 views/s, 4x.

What came out, and why it differed (measured/README.md has the figures):

- Data parallel as predicted. One by one the agreement after each step is the last straw of a host
  that launches 174 ms for 87 ms of kernels.
- Context parallel: 20 ms over half instead of 9. A profile of the second attempt, taken by hand:
  11.5 in all-reduces (28 of 14 MB, which alone take 0.07 ms each, and 731 MB of gradients, 3.2 ms:
  half of the 11.5 is waiting), 3.4 in Newton-Schulz (three matrices make 63 tiles for 132
  multiprocessors, so dividing them among ranks wouldn't help). AdamW as one kernel gained less than
  its passes over memory promise: 258.4 ms a step of one rank where it had been 258.9. Sums
  exchanged beside the queries' projections: 17.6 over half where it had been 19.6. 262K tokens:
  32, since recomputing makes sums and Newton-Schulz twice.
- DeepSpeed at 65K tokens: 6 % (ZeRO 0) and 18 % (ZeRO 2). Its throughput timer waited for the GPU
  twice a step and its norm once; parameters of ZeRO 2 lay at odd addresses, so that compiled code
  copied or, compiled for others before, failed. Without these 5 to 16 % on an H100 whose host
  launches 185 ms for 176 ms of kernels: 7,100 (ZeRO 0) and 17,500 (ZeRO 2) more Python calls a
  step, counted by cProfile on a CPU, are no longer hidden. So the row has 131K tokens now, where an
  H100 computes for 342 ms: 1.2 % (ZeRO 2), 1.5 % (ZeRO 0), 2.0 % (Ray Train + ZeRO 2).
- Stall of 312M: 1.7 s at 1.6 GB/s, page faults of fresh memory. Staged in memory that is kept and
  pinned it is 67 ms, 40 GB/s.
"""

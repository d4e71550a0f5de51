"""The compiled loops of hpv, on numpy arrays that the caller allocates; imported as ``hpv.kernels``.

Which loop it is on a processor, and what it costs in copies of the array (float32; the loop of two bytes in brackets):

    call      edges  with AVX-512                       without
    codes     13     1.2  comparing                     2.9  comparing
              35     1.9  grid (comparing)              5.2  grid (comparing)
              65     2.6  trees (trees)                 8.4  grid (comparing)
              240    3.6  trees (trees)                 9.0  trees (trees)
    counts    11     1.4  grid (comparing)              1.9  comparing
              33     2.1  grid (comparing)              3.4  grid (comparing)
              63     3.3  grid (comparing)              5.4  grid (comparing)
              238    7.8  trees (trees)                 13   trees (comparing)
    ranges    35     5.3  trees, look-ups in registers  10   codes, look-ups in memory
    tallies   35     3.9  trees, look-ups in registers  8.0  codes, look-ups in memory
    from codes       1.9  compared as bytes             2.8  look-ups in memory

``cpu/coders/coding.py`` chooses among the coders. On a GPU there is one loop for each call, whatever the edges are.
"""

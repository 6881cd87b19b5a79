"""The parts of ``cem_sampler.py``: the samplers, the surfaces, and the recorded table of mixtures."""

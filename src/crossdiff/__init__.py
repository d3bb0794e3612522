"""Crossdiff: what did fine-tuning do to a language model?

The floors, from the ground up (imports only ever point down): ``errors``, ``config``, ``storage`` | ``texts``, ``models`` |
``activations`` | ``crosscoders`` | ``scaling``, ``evaluation``, ``latents`` | ``figures``, ``report`` | ``workflow``, ``job``.
"""

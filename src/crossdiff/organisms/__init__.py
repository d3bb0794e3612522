"""Model organisms: fine-tunes whose taught behaviour is known, and what each method finds of it.

Was the behaviour learned (``taught``, ``verdict``)? What does each method hand in (``items``)? Is the
behaviour in it, by a rule that was fixed before anything was scored (``rule``)?
"""

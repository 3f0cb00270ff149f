"""The identity under which a teacher's labels are cached."""

from __future__ import annotations

import uuid
import weakref

from distilts_forecaster.teachers.base import Teacher

__all__ = ["cache_identity"]

#: Teachers without a revision by the id of what they wrap, with a token each. What is
#: wrapped is held weakly; when it goes, so does its token, and its id may be used again.
_tokens: dict[tuple[int, int], tuple[object, str]] = {}


def cache_identity(teacher: Teacher) -> str:
    """Return the identity under which a teacher's labels are cached.

    With a revision: name, revision and precision. Without: a token for the very function, model or
    object, in this process.
    """
    info = teacher.info
    if info.revision is not None:
        return repr((info.name, info.revision, info.dtype))
    # Functions and Darts models are wrapped anew each time they are passed.
    wrapped = getattr(teacher, "wrapped", teacher)
    # A bound method is a new object each time it is looked up.
    owner = getattr(wrapped, "__self__", wrapped)
    key = (id(owner), id(getattr(wrapped, "__func__", wrapped)))
    if key not in _tokens:

        def forget(_: object) -> None:
            _tokens.pop(key, None)

        try:
            held: object = weakref.ref(owner, forget)
        except TypeError:  # cannot be held weakly, so its id must not be used again
            held = owner
        _tokens[key] = (held, uuid.uuid4().hex)
    return repr((_tokens[key][1], info.dtype, info.quantile_levels))

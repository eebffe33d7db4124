"""Classes of plain facts, as dataclasses makes them.

That module takes longer to load than most commands run: it loads Python's own parsers.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace

    __all__ = ['dataclass', 'field', 'replace']
else:

    class field:
        """A default that is made anew for each record."""

        def __init__(self, *, default_factory):
            self.make = default_factory

    class Signature:
        """What inspect says of a class, which only its documentation asks."""

        def __get__(self, record, cls):
            from inspect import Parameter
            from inspect import Signature as Made

            def parameter(name, annotation):
                default = vars(cls).get(name, Parameter.empty)
                default = ... if isinstance(default, field) else default
                kind = Parameter.POSITIONAL_OR_KEYWORD
                return Parameter(name, kind, default=default, annotation=annotation)

            return Made([parameter(*pair) for pair in cls.__annotations__.items()])

    def dataclass(cls=None, *, frozen=False):
        """Give a class with annotations what dataclasses.dataclass gives it."""
        if cls is None:
            return lambda cls: dataclass(cls, frozen=frozen)
        names = tuple(cls.__annotations__)
        defaults = {name: vars(cls)[name] for name in names if name in vars(cls)}

        def __init__(self, *values, **fields):
            fields.update(zip(names, values, strict=False))
            for name, default in defaults.items():
                if name not in fields:
                    fields[name] = default.make() if isinstance(default, field) else default
            if len(values) > len(names) or fields.keys() != {*names}:
                raise TypeError(f'{cls.__name__} has the fields {", ".join(names)}')
            vars(self).update(fields)

        def __eq__(self, other):
            return vars(self) == vars(other) if type(other) is cls else NotImplemented

        def __repr__(self):
            fields = ', '.join(f'{name}={getattr(self, name)!r}' for name in names)
            return f'{cls.__name__}({fields})'

        def __hash__(self):
            return hash(tuple(getattr(self, name) for name in names))

        def __setattr__(self, name, *value):
            raise AttributeError(f'{cls.__name__} is frozen: {name!r}')

        for method in __init__, __eq__, __repr__:
            setattr(cls, method.__name__, method)
        cls.__signature__ = Signature()
        cls.__hash__ = __hash__ if frozen else None
        if frozen:
            cls.__setattr__ = cls.__delattr__ = __setattr__
        return cls

    def replace(record, **changes):
        """A record with other values in some fields."""
        return type(record)(**vars(record) | changes)

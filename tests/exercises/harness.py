"""What the checks of all exercises share: a red one says in one line what is missing or wrong."""
import importlib
import inspect

import pytest


def check(holds, message):
    """Fail with this line alone, unless it holds."""
    if not holds:
        raise pytest.fail.Exception(message, pytrace=False) from None  # not the traceback of an error that led here


def asked_for(module, signature):
    """The function that an exercise asks for, such as asked_for('neurons', 'coverage(counts, masks)')."""
    function = getattr(importlib.import_module(f'minispec.{module}'), signature.split('(')[0], None)
    check(function is not None, f'minispec/{module}.py has no {signature} yet')
    return function


def check_parameter(function, parameter, place):
    """Fail unless a function takes this keyword; `place` says in the message where it belongs."""
    check(parameter in inspect.signature(function).parameters, f'{place} does not take {parameter} yet')

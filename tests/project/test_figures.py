"""The figures of the documentation, which are drawn from the model."""

import importlib.util
from xml.etree import ElementTree

import pytest

from support import ROOT

SOURCE = ROOT / 'doc' / 'figures.py'
SVG = '{http://www.w3.org/2000/svg}'


@pytest.fixture(scope='module')
def figures():
    spec = importlib.util.spec_from_file_location('figures', SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f'{SVG}text')]


@pytest.mark.parametrize('name', ['execve.svg', 'launch.svg'])
def test_figure_is_xml_that_names_the_five_sets(figures, name):
    drawn = figures.FIGURES[name]()
    assert {'inheritable', 'permitted', 'effective', 'ambient', 'bounding'} <= {*texts(drawn)}
    assert drawn == figures.FIGURES[name]()


def test_execve_leaves_out_what_the_bounding_set_lacks(figures):
    assert texts(figures.execve_figure()).count('cap_sys_admin') == 1


def test_launch_leaves_the_script_what_it_is_marked_with(figures):
    assert texts(figures.launch_figure()).count('cap_net_raw') == 3


def test_audit_ends_with_what_is_needed_and_tries_less(figures):
    drawn = texts(figures.audit_figure())
    assert {'it has', 'it is refused', 'it ends', 'run 5'} <= {*drawn}
    assert drawn.count('exit 0') == 2
    assert drawn.count('exit 2') == 3

"""No input becomes an output."""

from __future__ import annotations

import pytest

import hpv
from data import two_layers
from hpv.activations.writing import save_activations
from hpv.fitting.job import prepare_fit
from hpv.fitting.merging import merge_to_store
from hpv.fitting.running import fit_to_store


@pytest.fixture
def data():
    return two_layers()


def test_no_input_is_overwritten(tmp_path, data):
    save_activations(tmp_path / "a", data)
    background = hpv.fit(data)
    background.save(tmp_path / "b")
    for path in ("a", "b"):
        with pytest.raises(hpv.OutputExistsError, match="only its own kind"):
            hpv.score(background, tmp_path / "a", tmp_path / path, overwrite=True)
    with pytest.raises(hpv.OutputExistsError, match="only its own kind"):
        fit_to_store(prepare_fit(tmp_path / "a"), tmp_path / "a", overwrite=True)
    with pytest.raises(hpv.InputError, match="one of the parts"):
        merge_to_store([tmp_path / "b"], tmp_path / "b", overwrite=True)
    with pytest.raises(hpv.InputError, match="given twice"):
        merge_to_store([tmp_path / "b", tmp_path / "b"], tmp_path / "c")
    assert hpv.open(tmp_path / "b").fingerprint == background.fingerprint
    assert hpv.open(tmp_path / "a").samples == 900

from __future__ import annotations

import pytest

from commands import done
from data import CommandData, save_command_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> CommandData:
    """Activations, their background and scores: tests read them and do not change them."""
    found = save_command_data(tmp_path_factory.mktemp("data"))
    done("fit", found.normal, "-o", found.background)
    done("score", found.background, found.new, "-o", found.scores)
    return found

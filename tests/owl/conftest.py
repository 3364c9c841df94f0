"""What several tests of the world model share."""
import pytest

from tests.owl import small


@pytest.fixture(scope="module")
def owl():
    return small.owl()

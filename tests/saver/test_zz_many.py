import pytest
from tests.saver.test_crash import *
from tests.servers import binaries
@pytest.mark.parametrize("n", range(12))
def test_it(durable, prefix, n):
    test_a_killed_server_has_all_that_it_acknowledged(durable, prefix)

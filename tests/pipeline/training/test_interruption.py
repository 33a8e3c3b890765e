"""Signals that end a training."""

import signal

import pytest
from scanloom.pipeline.training.interruption import interruptible

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_the_block_and_the_handlers_are_put_back(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(KeyboardInterrupt), interruptible() as interruption:
        interruption.check()
        signal.raise_signal(number)
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_finaliser_swallows_is_heard_at_the_next_check():
    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    with interruptible() as interruption:
        Finalised()
        with pytest.raises(KeyboardInterrupt):
            interruption.check()

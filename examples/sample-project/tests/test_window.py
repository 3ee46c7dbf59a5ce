import unittest

from pacing import Window


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class WindowTest(unittest.TestCase):
    def setUp(self):
        self.clock = Clock()
        self.window = Window(limit=2, span_s=10, clock=self.clock)

    def test_stops_at_the_limit(self):
        self.assertEqual([self.window.try_pass() for _ in range(3)], [True, True, False])

    def test_passes_again_once_the_oldest_event_is_out(self):
        self.window.try_pass()
        self.clock.now = 4.0
        self.window.try_pass()
        self.assertEqual(self.window.wait_s(), 6.0)
        self.clock.now = 10.0
        self.assertTrue(self.window.try_pass())
        self.assertFalse(self.window.try_pass())

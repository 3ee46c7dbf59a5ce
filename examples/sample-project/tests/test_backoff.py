import random
import unittest

from pacing import Backoff


class BackoffTest(unittest.TestCase):
    def test_doubles_up_to_the_cap(self):
        self.assertEqual(Backoff(1, 10).delays(6), [1, 2, 4, 8, 10, 10])

    def test_stays_at_the_cap_for_ever(self):
        self.assertEqual(Backoff(1, 900).delay(100_000), 900)

    def test_jitter_stays_below_the_plain_delay(self):
        jittered = Backoff(1, 60, random.Random(7)).delays(50)
        plain = Backoff(1, 60).delays(50)
        self.assertTrue(all(0 <= wait <= most for wait, most in zip(jittered, plain)))

    def test_refuses_nonsense(self):
        with self.assertRaises(ValueError):
            Backoff(0, 10)
        with self.assertRaises(ValueError):
            Backoff(1, 10).delay(0)

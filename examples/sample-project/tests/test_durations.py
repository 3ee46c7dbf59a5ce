import unittest

from pacing import format_duration, parse_duration


class ParseDuration(unittest.TestCase):
    def test_adds_up_the_parts(self):
        self.assertEqual(parse_duration("1h30m"), 5400.0)
        self.assertEqual(parse_duration("1.5s"), 1.5)

    def test_tells_minutes_from_milliseconds(self):
        self.assertEqual(parse_duration("2m"), 120.0)
        self.assertAlmostEqual(parse_duration("2ms"), 0.002)

    def test_refuses_what_is_not_a_duration(self):
        for text in ("", "5", "h", "1h 30m", "-1s", "1hx"):
            with self.subTest(text=text), self.assertRaises(ValueError):
                parse_duration(text)


class FormatDuration(unittest.TestCase):
    def test_uses_the_largest_units(self):
        self.assertEqual(format_duration(90061), "1d1h1m1s")
        self.assertEqual(format_duration(0), "0s")

    def test_is_read_back(self):
        for seconds in (0.25, 1, 59.999, 60, 3600.5, 123456):
            with self.subTest(seconds=seconds):
                self.assertAlmostEqual(parse_duration(format_duration(seconds)), seconds)

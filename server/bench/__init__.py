"""``unbroken bench``: a load tester that says how fast, and whether it was right.

options -> scenarios -> load (the loop) -> clients -> plane, in client mode -> the server
                           |                  ext.load: publishes and marks; ext.receiver: what was expected, times
                        pacing, schedule   verdict, report, plot"""

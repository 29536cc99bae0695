"""``unbroken bench``: a load tester that says how fast, and whether it was right.

options -> scenarios -> load (the loop) -> clients -> plane, in client mode -> the server
                           |                  ext.load.publisher: marks made; ext.load.receiver: marks found, times
                        pacing, schedule   verdict, report, plot"""

"""``unbroken bench``: a load tester that reports how fast a server was, and whether it was correct.

options -> scenarios -> load (the loop) -> clients -> plane, in client mode -> the server
                           |                  ext.load.publisher: marks made; ext.load.receiver: marks found, times
                        pacing, schedule   verdict, report, plot"""

cdef enum:                  # see ext.log.decision.Decision
    NEW = 0
    TOO_MANY = 1
    TOO_LARGE = 2
    CONNECTION_RATE = 3
    CHANNEL_RATE = 4
    KEY_RATE = 5
    APP_RATE = 6
    OVERFULL = 7
    FULL = 8
    EARLIER_IDS = 9
    SEEN = 10
    REFUSING = 11

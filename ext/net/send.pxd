from ext.net.socket cimport Socket, Subscription


cdef bint pump(Socket s, Subscription only) except *

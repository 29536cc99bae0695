from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from ext.net.socket cimport Socket


cdef void receive(Socket s, uint32_t events, uint8_t* buffer, size_t room) except *
cdef void decode(Socket s, uint8_t* data, size_t size) except *
cdef void decipher(Socket s, uint8_t* buffer, size_t size) except *

"""HTTP/1.1: requests as they are understood, and answers as libraries read them."""

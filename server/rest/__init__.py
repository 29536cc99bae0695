"""The REST interface: the routes, and the operations of the node behind them."""

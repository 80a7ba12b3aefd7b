"""JSON-RPC: the port to the node, the methods, the HTTP server and the clients."""

"""Views: the API's answers, one class for the server that makes them and the client that reads them. No torch."""

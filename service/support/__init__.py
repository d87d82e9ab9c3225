"""What any part of the server may use: whole files, clocks, supervised tasks, threads, texts that stores can hold."""

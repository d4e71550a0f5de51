"""Where stores lie: folders and addresses, their locks, names that a file system takes."""

"""What all packages share: the command line's shell, errors that a user can mend, files written whole."""

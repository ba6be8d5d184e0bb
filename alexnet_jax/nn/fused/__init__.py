"""What follows a convolution, in one kernel; see the README.md beside this."""

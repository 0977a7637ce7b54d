"""What every process shares.

The test for belonging here: would a sixth, unrelated service need it?
"""

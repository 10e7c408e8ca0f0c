"""FireWorks: campaigns on a LaunchPad."""

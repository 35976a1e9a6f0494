"""expo-lite's method inside other trainers."""

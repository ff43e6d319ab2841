"""The embedded default: synthetic faces whose expression, landmarks, visible parts and occluders are known exactly."""

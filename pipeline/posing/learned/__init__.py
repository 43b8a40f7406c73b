"""`--poses learned`: cameras of frames without pose or depth, by matching them with keyframes."""

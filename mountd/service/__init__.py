"""What the service manager that started us is told, and where its units keep things."""

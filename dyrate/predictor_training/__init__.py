"""Trains DyRate's predictors on a frozen model: recipe, data, gates, the teacher-forced pass, the loop."""

"""The data doctor: what is wrong with training data, before anything is trained on it."""

from training.data.doctor.examination import examine as examine
from training.data.doctor.report import DataReport as DataReport
from training.data.doctor.report import Finding as Finding

from data.reports.charts import bar_chart as bar_chart
from data.reports.data_card import write_data_card as write_data_card
from data.reports.page import render_page as render_page
from data.reports.report import summary_markdown as summary_markdown
from data.reports.report import write_report as write_report
